"""A trained model on photos; diffusers pipelines in and out."""
