MEDIA_TYPE = "application/vnd.kubernetes.protobuf"


def decode(raw: bytes) -> object:
    from services.dev_cluster.errors import unsupported_media

    raise unsupported_media(MEDIA_TYPE, "application/json, application/yaml")
