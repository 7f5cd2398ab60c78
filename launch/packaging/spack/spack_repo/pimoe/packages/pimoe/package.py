# Spack 1.0 or later, in the project's folder:
#
#   spack repo add launch/packaging/spack/spack_repo/pimoe
#   spack dev-build pimoe@main+cuda cuda_arch=90
from spack_repo.builtin.build_systems.cmake import CMakePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import *


class Pimoe(CMakePackage, CudaPackage):
    """Training of Mixture-of-Experts language models: expert and data parallelism, one binary under mpirun or srun."""

    license("Apache-2.0")

    version("main")  # the folder that `spack dev-build` is called in

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("cmake@4:", type="build", when="+cuda")
    depends_on("ninja", type="build")
    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-torch@2.11~distributed", type=("build", "link", "run"))
    depends_on("mpi@3:")
    depends_on("hdf5~mpi")
    depends_on("openssl")
    depends_on("yaml-cpp")
    depends_on("spdlog")
    depends_on("cli11")
    depends_on("nlohmann-json")
    depends_on("sentencepiece")
    depends_on("boost")  # headers alone: Beast
    depends_on("pcre2@10.40:")
    depends_on("utf8proc")
    depends_on("curl")
    depends_on("zlib-api")
    depends_on("zstd")
    depends_on("googletest", type="test")
    depends_on("py-torch~cuda", when="~cuda")
    conflicts("cuda_arch=none", when="+cuda", msg="name the GPUs, as cuda_arch=90: torch and NCCL are built for the same")
    with when("+cuda"):
        depends_on("cuda@13:")
        depends_on("nccl@2.28:")
        depends_on("py-torch+cuda+nccl")
        for arch in CudaPackage.cuda_arch_values:
            depends_on(f"py-torch cuda_arch={arch}", when=f"cuda_arch={arch}")
            depends_on(f"nccl cuda_arch={arch}", when=f"cuda_arch={arch}")

    def cmake_args(self):
        arguments = [
            self.define("PIMOE_PYTHON", self.spec["python"].command.path),
            self.define_from_variant("PIMOE_CUDA", "cuda"),
            self.define("BUILD_TESTING", self.run_tests),
        ]
        if self.spec.satisfies("+cuda"):
            arguments.append(self.define("PIMOE_NCCL_DIR", self.spec["nccl"].prefix))
            # 90 has instructions that only 90a may use; our kernels for Hopper take them.
            arch = ["90a" if each == "90" else each for each in self.spec.variants["cuda_arch"].value]
            arguments.append(self.define("CMAKE_CUDA_ARCHITECTURES", arch))
        return arguments
