"""Packaging of posekit: a TensorFlow 2 / Keras library of four pose-estimation systems."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "posekit" / "__init__.py").read_text(), re.M).group(1)

setup(
    name="posekit",
    version=VERSION,
    description="Human mesh recovery, hand and body pose, 2-D to 3-D lifting and multi-person pose, in Keras",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["posekit", "posekit.*"]),
    package_data={"posekit": ["assets/*", "ops/native/*.md", "ops/native/src/*", "ops/native/cuda/*"]},
    python_requires=">=3.10",
    install_requires=[
        "tensorflow>=2.18",
        "keras>=3.11",
        "numpy>=2.0",
        "opencv-python>=4.10",
        "pillow>=10.1",
        "scipy>=1.14",
        "absl-py>=2.1",
        "matplotlib>=3.9",
        "pycocotools>=2.0.8",
        "h5py>=3.11",
        "tensorboard>=2.18",
        "tqdm>=4.66",
    ],
    extras_require={
        "export": ["tf2onnx>=1.16", "onnxruntime>=1.19"],
        "h36m": ["cdflib>=1.3"],
        "notebooks": ["jupyter", "nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
        "dev": [
            "pytest>=8", "pytest-xdist>=3.7", "ruff>=0.6", "cdflib>=1.3", "nbclient>=0.10", "nbformat>=5.10",
            "ipykernel>=6.29", "clang-format>=23,<24", "tf2onnx>=1.16", "onnxruntime>=1.19",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
