"""``cluster.yaml``: the one place of configuration, validated, every value with its source."""

from batchrun.config.settings import (
    ConnectSettings,
    LocalSettings,
    RunSettings,
    SecuritySettings,
    ServiceSettings,
    Setting,
    Settings,
    WorkerGroup,
    json_schema,
    load_settings,
    settings_for_address,
)

__all__ = [
    "ConnectSettings",
    "LocalSettings",
    "RunSettings",
    "SecuritySettings",
    "ServiceSettings",
    "Setting",
    "Settings",
    "WorkerGroup",
    "json_schema",
    "load_settings",
    "settings_for_address",
]
