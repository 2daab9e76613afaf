from lmjax import cli


def main(arguments: list[str]) -> int:
    """Run `lmjax analyze`; returns the exit code."""
    return cli.main(["analyze", *arguments])
