"""The report: what a browser shows is what the run says, whatever the names are."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from small_run import annotate_small
from small_worker import make_small

from ambient_curate.analysis.spectra import estimate_spectrum, fit_decay
from ambient_curate.data.collection import open_collection
from ambient_curate.errors import ConfigError, RunError
from ambient_curate.progress import silent
from ambient_curate.report.page import write_report
from ambient_curate.report.page_content import MEASURED, gather
from ambient_curate.report.sentences import list_advice, summarize_sets
from ambient_curate.run.records import Run, open_run_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
NAMES = (
    "<script>alert(1)</script>",
    "../../x",
    "long " * 60,
    "掴む & 置く",
    "\u202eשלום <b>right</b> to left",  # noqa: RUF001
)


def toml_text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five datasets of hostile names, of a window each row; one is too small to say anything."""
    root, rng = tmp_path_factory.mktemp("report"), np.random.default_rng(0)
    lines = ['clean = "clean"']
    for number, name in enumerate(("clean", *NAMES)):
        folder = root / "set" / f"part-{number}"
        folder.mkdir(parents=True)
        episodes = 2 if number == 3 else 9
        for episode in range(episodes):
            walk = np.cumsum(rng.normal(size=(14, 2)), axis=0)
            walk += 0.6 * number * rng.normal(size=walk.shape)
            np.savez(folder / f"{episode}.npz", action=walk.astype(np.float32))
        lines += [f"[datasets.{toml_text(name)}]", f"path = {toml_text(folder.name)}"]
    (root / "set" / "ambient.toml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        options = {"granularity": "datapoint", "store_curves": True, "represent": "absolute"}
        return annotate_small(root / "set", root / "run", **options)


@pytest.fixture(scope="module")
def written(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page, written once."""
    return write_report(run, tmp_path_factory.mktemp("written") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def open_page(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """Open a file without a network; also what its console says, which may only grow."""
    context = browser.new_context(offline=True, **options)
    page, said = context.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and said.append(request.url))
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("#accuracy .main-svg")
    return page, said


def cells(page: Page) -> list[list[str]]:
    script = "rows => rows.map(r => [...r.children].map(c => c.dataset.value))"
    return page.eval_on_selector_all("#verdict tbody tr:not([hidden])", script)


@needs_browser
def test_a_browser_shows_the_numbers_of_the_run(run: Run, browser: Browser, written: Path) -> None:
    page, said = open_page(browser, written)
    verdict = run.info["verdict"]
    shown = cells(page)
    assert [row[0] for row in shown] == [row["dataset"] for row in verdict]
    keys = ("episodes", "windows", "sigma_min", "lower", "bracket_lower", "sigma_max", "delta")
    for row, texts in zip(verdict, shown, strict=True):
        for key, text in zip(keys, texts[1:], strict=False):
            assert (None if text == "" else float(text)) == row[key], (row["dataset"], key)
    manifest = run.manifest().to_pandas()
    stored = json.loads(page.text_content("#content") or "")
    assert {each["why"] for each in stored["episodes"]} == {"lowest", "highest", "abstained"}
    for each in stored["episodes"]:
        of = (manifest.dataset == each["dataset"]) & (manifest.episode_id == each["episode_id"])
        rows = manifest[of].sigma_min
        if each["why"] == "abstained":
            assert rows.isna().all() and each["sigma_min"] is None
        else:
            assert each["sigma_min"] == pytest.approx(rows.fillna(1.0).mean())
            np.testing.assert_allclose(each["strip"], rows, atol=5e-4)
            curves = np.mean(np.stack(list(manifest[of].p_clean)), axis=0)
            np.testing.assert_allclose(each["curve"], curves, atol=1e-4)
        folder = run.path.parent / "set" / f"part-{('clean', *NAMES).index(each['dataset'])}"
        action = np.load(folder / f"{each['episode_id'].removesuffix('.npz')}.npz")["action"]
        np.testing.assert_allclose(np.array(each["trace"]["action"]).T, action, atol=1e-3)
    for found in stored["histograms"]:
        rows = manifest[manifest.dataset == found["dataset"]].sigma_min
        expected, _ = np.histogram(rows.dropna(), bins=found["bins"], range=(0, 1))
        assert found["counts"] == expected.tolist() and found["nulls"] == rows.isna().sum()
    spectra = {each["dataset"]: each for each in stored["spectra"]}
    assert spectra.keys() <= {"clean", *NAMES}
    assert said == []


def read_opening(page: Page) -> list[list[str]]:
    """Name, share, first step and sentence of every set."""
    script = "x => x.map(e => [...e.children].map(c => c.textContent))"
    return page.eval_on_selector_all(".todo li:not([hidden])", script)


@needs_browser
def test_it_opens_with_what_to_do(run: Run, browser: Browser, written: Path) -> None:
    page, _ = open_page(browser, written)
    advice = list(list_advice(run.info))
    expected = [[each.name, each.share, each.first, f"{each.sentence}."] for each in advice]
    assert read_opening(page) == expected and len(expected) == len(NAMES)
    assert [(each.name, each.sentence) for each in advice] == list(summarize_sets(run.info))
    order = page.eval_on_selector_all(".todo, #accuracy, #verdict table", "x => x.map(e => e.id)")
    assert order == ["", "accuracy", ""]
    page.locator("#chips input").nth(1).uncheck()
    assert len(read_opening(page)) == len(NAMES) - 1


@needs_browser
def test_a_set_without_an_answer_opens_the_page_as_such(
    run: Run, browser: Browser, tmp_path: Path
) -> None:
    row = {"status": "not-compared", "reason": "it moves", "sigma_min": None, "usable": 0.0}
    first, second, *others = run.info["verdict"]
    info = run.info | {"verdict": [first, second | row, *others]}
    page, _ = open_page(browser, write_report(replace(run, info=info), tmp_path / "report.html"))
    name, share, step, sentence = read_opening(page)[0]
    assert (name, share) == (second["dataset"], "not usable")
    assert step == "no sigma_min: not-compared"
    assert sentence.startswith("do not train on it, not-compared: it moves")
    assert page.locator(".todo li").first.locator(".share.bad").count() == 1
    assert "judged as a whole" in (page.text_content("#whole") or "")


@needs_browser
def test_a_panel_without_content_is_a_line(
    place_small: Callable[..., Run], browser: Browser, tmp_path: Path
) -> None:
    small = place_small(tmp_path)
    shutil.rmtree(tmp_path / "set")
    page, said = open_page(browser, write_report(small))
    for id_ in ("histogram", "tilt", "locality", "spectrum", "list"):
        assert page.locator(f"#{id_}").count() == 0
    lines = page.eval_on_selector_all("#absent p", "x => x.map(e => e.textContent)")
    titles = ["\u03c3_min of datasets", "Tilt of the mixture", "Locality", "Spectra", "Episodes"]
    assert [line.split(":")[0] for line in lines] == titles
    assert "is not there" in lines[3] and lines[2].endswith("annotate with --locality.")
    panels = page.locator(".chart").count()
    for box in page.locator("#chips input").all():
        box.uncheck()
    assert page.locator(".none:visible").count() == panels == 4
    assert page.locator(".chart:visible").count() == 0
    assert said == []


@needs_browser
def test_the_mode_bar_shows_where_one_points_beside_the_legend(
    browser: Browser, written: Path
) -> None:
    page, _ = open_page(browser, written, viewport={"width": 1280, "height": 900})
    group = page.locator("#accuracy .modebar-group").first
    expect(group).to_have_css("opacity", "0")
    page.hover("#accuracy .nsewdrag")
    expect(group).to_have_css("opacity", "1")
    bar, legend = group.bounding_box(), page.locator("#accuracy .legend").bounding_box()
    assert bar and legend and bar["x"] > legend["x"] + legend["width"]
    touched, _ = open_page(browser, written, has_touch=True, is_mobile=True)
    assert touched.locator(".modebar").count() == 0


@needs_browser
def test_names_are_text_and_nothing_of_them_runs(
    run: Run, browser: Browser, tmp_path: Path
) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    page, said = open_page(browser, write_report(run, tmp_path / "report.html"))
    names = page.eval_on_selector_all("#verdict tbody td.name", "x => x.map(e => e.textContent)")
    assert set(names) == {"clean", *NAMES}
    assert page.locator("#verdict b, #chips script, #list b").count() == 0
    legends = page.eval_on_selector_all("#accuracy .legendtext", "x => x.map(e => e.textContent)")
    assert any(text.startswith("<script>alert(1)</script>") for text in legends)
    for button in page.locator(".episode > button").all():
        button.click()
    commands = page.eval_on_selector_all(".copy", "x => x.map(e => e.title)")
    assert all(command.startswith("ambient-curate view ") for command in commands)
    assert page.evaluate("typeof alerted") == "undefined"
    assert said == []
    assert before == [] and [path.name for path in tmp_path.rglob("*")] == ["report.html"]


@needs_browser
def test_filters_and_sorting_act_on_every_panel(browser: Browser, written: Path) -> None:
    page, said = open_page(browser, written)

    def lines(panel: str) -> int:
        return page.locator(f"#{panel} .legendtext").count()

    everything = len(cells(page)), lines("accuracy"), page.locator(".episode:visible").count()
    page.fill("#search", "掴む")
    assert [row[0] for row in cells(page)] == ["掴む & 置く"]
    page.wait_for_function("document.querySelectorAll('#accuracy .legendtext').length === 1")
    assert lines("histogram") == 1
    assert 0 < page.locator(".episode:visible").count() < everything[2]
    page.fill("#search", "")
    page.locator("#chips input").nth(1).uncheck()
    assert len(cells(page)) == everything[0] - 1
    page.locator("#chips input").nth(1).check()
    header = page.locator("#verdict th button", has_text="\N{GREEK SMALL LETTER SIGMA}_min")
    for order in ("ascending", "descending"):
        header.press("Enter")  # by keyboard
        assert page.locator("#verdict th[aria-sort]").get_attribute("aria-sort") == order
        values = [row[3] for row in cells(page)]
        known = [float(value) for value in values if value]
        assert known == sorted(known, reverse=order == "descending")
        assert all(value == "" for value in values[len(known) :])
    page.click("#theme")
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.click("#theme")
    assert {theme, page.evaluate("document.documentElement.dataset.theme")} == {"light", "dark"}
    assert said == []


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, written: Path, width: int) -> None:
    page, _ = open_page(browser, written, viewport={"width": width, "height": 800})
    page.locator(".episode > button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_spectra_are_those_of_the_first_episodes(tmp_path: Path) -> None:
    rng, actions = np.random.default_rng(0), {}
    for name in ("clean", "other"):
        (tmp_path / "set" / name).mkdir(parents=True)
        actions[name] = [rng.normal(size=(40, 2)).cumsum(axis=0) for _ in range(MEASURED + 5)]
        for number, action in enumerate(actions[name]):
            file = tmp_path / "set" / name / f"{number:03d}.npz"
            np.savez(file, action=action.astype(np.float32))
    scales = {"clean": np.array([1.0, 2.0]), "other": np.array([3.0, 1.0])}  # a trainer's own
    found = gather(open_collection(tmp_path / "set"), [], scales, silent)
    for each in found.spectra:
        name = each["dataset"]
        scaled = [a.astype(np.float32) * scales[name] for a in actions[name][:MEASURED]]
        expected = estimate_spectrum(scaled)
        assert each["episodes"] == MEASURED and found.traces == {}
        np.testing.assert_allclose(each["power"][0], expected.power.sum(2).mean(0), rtol=1e-2)
        decay = fit_decay(expected, pooled=True)
        assert each["alpha"] == pytest.approx(
            [decay.value[0], decay.lower[0], decay.upper[0]], abs=0.01
        )
    assert len(found.spectra) == 2


def test_it_lies_in_the_run_and_loads_nothing(run: Run, written: Path) -> None:
    path = write_report(run)
    assert path == run.path / "report.html"
    text = path.read_text(encoding="utf-8")
    head = text[: text.index('id="content"')]
    assert not re.search(r"(src|href)\s*=", head)
    assert "</script>alert" not in text and path.stat().st_size < 8_000_000
    assert written.read_text(encoding="utf-8") == text
    assert open_run_results(run.path).info == run.info


def test_where_the_data_is_gone_the_page_says_so(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "run"
    shutil.copytree(run.path, copy)
    path = write_report(open_run_results(copy))
    text = path.read_text(encoding="utf-8")
    assert "no traces of actions and no spectra: the data of" in text and '"trace":null' in text
    with pytest.raises(RunError, match="is not there"):
        write_report(open_run_results(copy), data=tmp_path / "nowhere")


def test_without_the_extra_it_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    with pytest.raises(ConfigError, match="plotly, which is not installed") as caught:
        write_report(run, tmp_path / "report.html")
    assert "ambient-curate[report]" in (caught.value.hint or "")
    assert not (tmp_path / "report.html").exists()
