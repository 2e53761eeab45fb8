"""Neural teachers: what makes the edited side of a pair from a photo, with weights that the user supplies."""
