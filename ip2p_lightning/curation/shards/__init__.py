"""Writing a dataset: chunks, Parquet shards, report and card."""
