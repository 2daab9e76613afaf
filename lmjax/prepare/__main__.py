import sys

from lmjax.prepare import main

if __name__ == "__main__":
    sys.exit(main())
