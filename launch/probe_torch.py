"""Says whether this Python's torch can serve as our libtorch, without importing it.

Usage: probe_torch.py TORCH_VERSION CUDA_RELEASE on|off
Prints this interpreter, the folder of torch and its version, separated by tabs; or, with exit status 1, the reason why not.
"""

import importlib.util
import os
import re
import sys

wanted, release, cuda = sys.argv[1:]
series = wanted.rpartition(".")[0]

spec = importlib.util.find_spec("torch")
if spec is None or not spec.submodule_search_locations:
    sys.exit(f"{sys.executable} has no torch package")
folder = list(spec.submodule_search_locations)[0]


def require(path, what):
    if not os.path.exists(path):
        sys.exit(f"{what}: there is no {path}")


require(f"{folder}/version.py", f"the torch of {sys.executable} is not whole")
with open(f"{folder}/version.py") as file:
    text = file.read()
version = re.search(r"^__version__ = '([^']+)'", text, re.M).group(1)
if not version.startswith(series + "."):
    sys.exit(f"the torch of {sys.executable} is {version}, not {series}.x")
require(f"{folder}/lib/libtorch_cpu.so", f"torch {version} has no C++ library")
require(f"{folder}/include/ATen/core/Tensor.h", f"torch {version} has no C++ headers")

if cuda == "on":
    built_for = re.search(r"^cuda: [^=]*= '([^']+)'", text, re.M)
    if built_for is None or built_for.group(1) != release:
        sys.exit(f"torch {version} is built for {'CUDA ' + built_for.group(1) if built_for else 'the CPU alone'}, not for CUDA {release}")
    nccl = f"{os.path.dirname(folder)}/nvidia/nccl"
    require(f"{folder}/lib/libtorch_cuda.so", f"torch {version} has no CUDA library")
    require(f"{nccl}/include/nccl.h", f"torch {version} has no NCCL headers beside it")
    require(f"{nccl}/lib/libnccl.so.2", f"torch {version} has no NCCL beside it")

print(sys.executable, folder, version, sep="\t")
