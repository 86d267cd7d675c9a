"""What every package needs: checks of arguments, files, run folders, imports on demand.

For maintainers. `arguments` raises the same errors everywhere, `files` writes a file
whole or not at all, and `runs` locks, checks and continues the folder of a run.
"""
