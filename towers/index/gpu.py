"""Structures on an NVIDIA GPU.

Owns moving them there, and saying what is missing where that cannot be. `faiss-gpu` is the same module as `faiss-cpu`.
"""

from typing import Any

import faiss

from towers.errors import GpuMissing

FAISS: Any = faiss  # its stubs know no GPU
INSTEAD = "or build an index for CPUs: scripts/build_index.py index=flat"
_resources: list[Any] = []  # one for all structures: it holds their temporary memory, and must outlive them


def gpu_resources(*, needs: str = "StandardGpuResources") -> Any:
    """What structures on the GPU share.

    Args:
        needs: a name that this build of Faiss must have.

    Raises:
        GpuMissing: there is no GPU, or this Faiss cannot use it.
    """
    if not hasattr(faiss, "StandardGpuResources"):
        raise GpuMissing(
            f"this index is searched on an NVIDIA GPU, and Faiss {faiss.__version__} here was built for CPUs alone: "
            f"set up the GPU environment (make setup on a machine that has one), {INSTEAD}"
        )
    if FAISS.get_num_gpus() < 1:
        raise GpuMissing(
            "this index is searched on an NVIDIA GPU, and Faiss sees none: look at nvidia-smi and "
            f"CUDA_VISIBLE_DEVICES, {INSTEAD}"
        )
    if not hasattr(faiss, needs):
        raise GpuMissing(
            f"Faiss {faiss.__version__} here has no {needs}: it comes with cuVS (the conda package faiss-gpu-cuvs); "
            "install that, or choose index=gpu_ivf_flat"
        )
    if not _resources:
        _resources.append(FAISS.StandardGpuResources())
    return _resources[0]


def on_gpu(structure: Any) -> Any:
    """A copy on the first GPU that Faiss sees (CUDA_VISIBLE_DEVICES chooses).

    Raises:
        GpuMissing: there is none, or this Faiss cannot use it.
    """
    needs = "GpuIndexCagra" if isinstance(structure, FAISS.IndexHNSWCagra) else "StandardGpuResources"
    return FAISS.index_cpu_to_gpu(gpu_resources(needs=needs), 0, structure)
