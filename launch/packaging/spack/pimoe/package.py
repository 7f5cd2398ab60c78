# spack repo create pimoe-repo && cp -r launch/packaging/spack/pimoe pimoe-repo/packages/ && spack repo add pimoe-repo && spack install pimoe
from spack.package import *


class Pimoe(CMakePackage, CudaPackage):
    """Training of Mixture-of-Experts language models: expert and data parallelism, one binary under mpirun or srun."""

    license("Apache-2.0")

    version("main", branch="main")
    # `spack dev-build pimoe@main` builds the folder that it is called in.

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-torch@2.11~distributed")
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
    depends_on("zlib-api")
    depends_on("zstd")
    depends_on("googletest", type="test")
    with when("+cuda"):
        depends_on("cuda@13:")
        depends_on("nccl@2.28:")
        depends_on("py-torch+cuda+nccl")

    def cmake_args(self):
        arguments = [
            self.define("PIMOE_PYTHON", self.spec["python"].command.path),
            self.define_from_variant("PIMOE_CUDA", "cuda"),
            self.define("BUILD_TESTING", self.run_tests),
        ]
        if self.spec.satisfies("+cuda"):
            arguments.append(self.define("PIMOE_NCCL_DIR", self.spec["nccl"].prefix))
            if self.spec.variants["cuda_arch"].value != ("none",):
                arguments.append(self.define("CMAKE_CUDA_ARCHITECTURES", list(self.spec.variants["cuda_arch"].value)))
        return arguments
