import importlib.metadata

UNOPTIMIZED = "--xla_backend_optimization_level=0"
"""Flags of XLA: nearly all the time of a test is LLVM's, spent on a program that runs once or twice."""
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # later ones do not know them
    # Fusions as XLA compiled them before its emitters, which take three times as long.
    UNOPTIMIZED += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
