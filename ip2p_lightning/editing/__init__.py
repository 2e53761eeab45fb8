"""Edit photos with a trained model; read and write diffusers pipelines."""
