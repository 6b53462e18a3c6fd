"""--mode=serve."""

import json

from descargan_tf import pretrained
from descargan_tf.commands.export import export, export_base
from descargan_tf.config import Config


def serve(config: Config) -> int:
    """What was exported, over TensorFlow Serving's REST API, on this machine.

    Published weights are exported first where that has not been done.
    """
    from descargan_tf.export.embedded import server

    # Our exports' rows are independent. Batches bound the memory as well: so many images at a time on each core.
    batches = server.BatchingParameters(config.export_largest_batch, enable_large_batch_splitting=True)
    exported = server.ModelConfig(config.model_name or config.method, export_base(config))
    settings = server.settings(config, exported, batches)
    if config.published and not config.names_models and not _is_exported(config):
        export(config)
    return server.serve(settings)


def _is_exported(config):
    """Whether the newest version is of the published weights."""
    from descargan_tf.export import card
    from descargan_tf.export.publish import versions

    base = export_base(config)
    try:
        facts = json.loads((base / str(versions(base)[-1]) / card.JSON).read_text())
    except (OSError, ValueError, IndexError):  # there is none, or it is of another program
        return False
    return facts.get("weights_sha256") == pretrained.describe(config.published)["sha256"]
