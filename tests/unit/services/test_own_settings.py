"""A service's own settings are described, and cannot be another service's."""

import pytest

from dev.env_example import own
from dev.servers import service_names


@pytest.mark.parametrize("service", service_names())
def test_settings_of_a_service_are_named_after_it_and_described(service: str) -> None:
    for name, field in own(service).items():
        assert name.startswith(f"{service}_"), (
            f"services/{service}/settings.py: call {name} {service}_{name}; all services read one .env, and each must "
            f"see whose a setting is"
        )
        assert field.description, f"services/{service}/settings.py: describe {name}: Field(description=...)"
