"""The memory that a run needs, estimated before it starts."""
