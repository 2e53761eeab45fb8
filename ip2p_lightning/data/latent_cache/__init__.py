"""Autoencoder moments kept between epochs and jobs: content-addressed, verified, filled on first use.

What is stored is the posterior (mean and log-variance), not a sample of it: sampling stays at run time, so a run from
the cache draws the numbers of the recipe.
"""
