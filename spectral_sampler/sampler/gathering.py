def wanted(gather, num_replicas):
    return False


def gathered(*a, **k):
    pass
