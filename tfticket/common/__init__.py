"""For every package: checks of arguments, files written whole, folders of runs."""
