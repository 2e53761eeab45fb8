"""Examples of image edits: sources of pairs, views, prompts, tasks and mixtures."""
