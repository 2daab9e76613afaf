import sys

from lmjax.report import main

if __name__ == "__main__":
    sys.exit(main())
