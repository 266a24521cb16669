"""The Open Inference Protocol's descriptors, in a DescriptorPool of their own.

Importing a second copy of the `inference` symbols into protobuf's default pool fails with "duplicate symbol"; a private
pool lets this package and tritonclient share a process.
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

POOL = descriptor_pool.DescriptorPool()


def _load() -> list[FileDescriptor]:
    packed = resources.files("batchyard.oip").joinpath("open_inference.binpb").read_bytes()
    files = descriptor_pb2.FileDescriptorSet.FromString(packed).file
    for file in files:
        POOL.Add(file)
    return [POOL.FindFileByName(file.name) for file in files]


FILES = _load()
SERVICE: ServiceDescriptor = FILES[-1].services_by_name["GRPCInferenceService"]
SERVICE_NAME: str = SERVICE.full_name
