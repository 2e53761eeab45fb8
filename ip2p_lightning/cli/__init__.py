"""The commands: parse the words, call one function of a room, print."""
