"""`python -m tfticket` is the program `tfticket`, which is another package."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tfticket_cli", run_name="__main__")
