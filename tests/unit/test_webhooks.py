"""Signatures as Standard Webhooks wants them, checked by its own library."""

from __future__ import annotations

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from services.webhooks import headers, secret

TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_standards_own_library_accepts_what_is_signed() -> None:
    sent_s = int(time.time())
    body = '{"type": "alert.raised", "data": {"message": "80 % — voll"}}'.encode()
    signed = headers(secret(TEXT), "msg_1", sent_s, body)
    assert Webhook(TEXT).verify(body, signed)["type"] == "alert.raised"
    for wrong in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(sent_s + 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(TEXT).verify(body, signed | wrong)
    with pytest.raises(WebhookVerificationError):
        Webhook(TEXT).verify(body + b" ", signed)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(body, signed)


def test_the_standards_example() -> None:
    # From the specification's examples.
    signed = headers(secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
                     b'{"test": 2432232314}')  # fmt: skip
    assert signed["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text", ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_***", "whsec_" + "A" * 120]
)
def test_a_secret_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whsec_ followed by 24 to 64 bytes"):
        secret(text)
