"""`python -m tfticket` is the program `tfticket`, which is another package.

`tfticket/__init__.py` starts it sooner if that is Python's own command line. This
module is for programs that run another one, such as `python -m cProfile -m tfticket`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("tfticket_cli", run_name="__main__")
