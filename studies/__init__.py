"""The study files that ship with Offkey."""
