"""Building datasets: candidates from a source, an audit of each, leak-free splits, Parquet shards and a card.

`Origin.list` lists the candidates; they are divided into chunks; `chunks` examines and writes each one (in parallel, on
one machine or many); `assemble` assigns splits and writes the dataset. The output of every step depends only on its
input, so a killed build continues to the same bytes.
"""
