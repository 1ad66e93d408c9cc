"""A vision-language model of a few thousand random weights, as files that SmolVLA reads."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

WORDS = ("<pad>", "<unk>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global>")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
}
IMAGE = 32  # pixels a side


def write_tiny_vlm(place: Path) -> Path:
    """Write configuration, tokenizer and processors; nothing is downloaded or trained."""
    text = {"model_type": "llama", "vocab_size": 64, "num_key_value_heads": 2, "head_dim": 16}
    SmolVLMConfig(
        text_config={**text, **SIZES, "pad_token_id": 0},
        vision_config={"image_size": IMAGE, "patch_size": 16, **SIZES},
        scale_factor=2,
        image_token_id=WORDS.index("<image>"),
    ).save_pretrained(place)
    known = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={
            "end_of_utterance_token": "<end_of_utterance>",
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global>",
        },
    )
    videos = SmolVLMVideoProcessor()
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, videos).save_pretrained(place)
    return place
