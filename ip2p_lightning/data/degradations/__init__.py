"""Degradations: functions of a clean image and a random generator."""
