"""What obstore says went wrong with a bucket, as an error that says what to do about it.

The library puts the whole answer of a service into a message: URL, status, the XML of S3, and its
own structures below. Of that only S3's `Code` and `Message` are for people. An object that is not
there is a FileNotFoundError and not of the library's kind, even where it is the bucket that is
missing. Constraint: obstore is imported by those who use it, and its errors are known by what they
say.
"""

from __future__ import annotations

import re

from eka_runtime.errors import ServiceError
from eka_runtime.printable import in_one_line

_LIMIT = 400
_FIELD = r"<{0}>([^<]{{1,300}})</{0}>"
_CODE, _MESSAGE = (re.compile(_FIELD.format(name)) for name in ("Code", "Message"))
_REQUEST = re.compile(r"Error performing ([A-Z]+ \S+) ")
_STATUS = re.compile(r"status code: (\d{3}[ A-Za-z]*)")

_BUCKET = "check the name of the bucket, and whether it was made there"
_DENIED = (
    "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile) and what"
    " they may do; a public bucket is read without any if AWS_SKIP_SIGNATURE=true"
)
_REGION = "name the region of the bucket, in its URL or as AWS_REGION"
_NOBODY = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile; a public bucket is read"
    " without any if AWS_SKIP_SIGNATURE=true"
)
# Where the library asks for the role of a machine, or of a container.
_ROLES = ("169.254.169.254", "169.254.170.")
_OTHERWISE = "check the network, and the URL with its options"

# S3's error codes, and words of the library where there was no answer to take a code from.
_HINTS = (
    (("NoSuchBucket",), _BUCKET),
    (
        (
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "IllegalLocationConstraintException",
            "redirect without LOCATION",
            "Received redirect",
        ),
        _REGION,
    ),
    (_ROLES, _NOBODY),
    (
        (
            "AccessDenied",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "status code: 401",
            "status code: 403",
        ),
        _DENIED,
    ),
)


def bucket_error(place: str, error: Exception) -> ServiceError:
    """`place` is the object or the bucket, as a message calls it."""
    text = str(error)
    return ServiceError(f"{place}: {_reason(text)}", hint=_hint(text))


def is_missing_bucket(error: FileNotFoundError) -> bool:
    """Whether it is not just the object that is not there."""
    return "NoSuchBucket" in str(error)


def _reason(text: str) -> str:
    if any(address in text for address in _ROLES):
        return "no credentials: neither variables, nor a profile, nor a role of this machine"
    code, message = _CODE.search(text), _MESSAGE.search(text)
    if code:
        return in_one_line(f"{message[1]} ({code[1]})" if message else code[1], _LIMIT)
    request, status = _REQUEST.search(text), _STATUS.search(text)
    if request and status:
        return in_one_line(f"{request[1]} is answered with status {status[1]}", _LIMIT)
    # Below the first line the library shows its structures.
    return in_one_line(text.partition("\n")[0], _LIMIT)


def _hint(text: str) -> str:
    found = (hint for signs, hint in _HINTS if any(sign in text for sign in signs))
    return next(found, _OTHERWISE)
