"""The minimal ambient diffusion policy, on tensors: it knows no manifests."""
