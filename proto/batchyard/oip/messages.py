"""The messages and enums of the Open Inference Protocol; messages.pyi, generated beside the descriptors, types them."""

from google.protobuf import message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from batchyard.oip.contract import FILES

for _file in FILES:
    for _name, _descriptor in _file.message_types_by_name.items():
        globals()[_name] = message_factory.GetMessageClass(_descriptor)
    for _name, _enum in _file.enum_types_by_name.items():
        globals()[_name] = EnumTypeWrapper(_enum)
