"""The processes of one run: ranks, their launch and their meeting point."""
