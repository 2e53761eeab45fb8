"""From Hydra's composed config to checked plain data, and from that to objects."""
