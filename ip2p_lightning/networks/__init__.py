"""The parts with weights: codecs, text encoders, editors, and what an editor is shown."""
