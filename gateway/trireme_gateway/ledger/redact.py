"""Takes out of a text what names a person or opens a door: addresses of mail, numbers of cards and telephones, keys.

Telephone numbers are found by Google's libphonenumber, cards by their length and check digit (ISO/IEC 7812-1, Luhn).
What looks like one of these and is none is taken out, too, now and then; what looks like none of them is not found.
"""

import re

from phonenumbers import Leniency, PhoneNumberMatcher

_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
_CARD = re.compile(r"(?<![\dA-Za-z])\d(?:[ -]?\d){11,18}(?![\dA-Za-z])")

#: Of well-known kinds; of anything that says it is one; and JSON Web Tokens and PEM blocks.
_KEYS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|\b(?:trk_|sk-|pk-|rk_|sk_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|hf_|AKIA|ASIA|AIza|ya29\.)[A-Za-z0-9_.-]{12,}",
    re.DOTALL,
)
_SAID = re.compile(
    r"(?i)\b((?:api[ _-]?key|secret|token|password|passwd|pwd|bearer)(?:\s+is)?\s*[:=]?\s*[\"']?)([^\s\"',;]{8,})"
)

#: Telephone numbers are looked for in texts of at most so many characters; the rest has its long numbers taken out.
_MATCHED = 200_000
_MANY_DIGITS = re.compile(r"\+?\d(?:[ ().-]?\d){7,}")


class Redactor:
    """phone_region: whose telephone numbers are known without a +, such as US."""

    def __init__(self, phone_region: str) -> None:
        self._region = phone_region

    def redact(self, text: str) -> str:
        """The text with [email], [card], [phone] and [key] in their places."""
        text = _KEYS.sub("[key]", text)
        text = _SAID.sub(_if_secret, text)
        text = _MAIL.sub("[email]", text)
        text = _CARD.sub(lambda found: "[card]" if _is_card(found[0]) else found[0], text)
        return self._without_phones(text)

    def _without_phones(self, text: str) -> str:
        head, tail = text[:_MATCHED], text[_MATCHED:]
        parts, end = [], 0
        for match in PhoneNumberMatcher(head, self._region, leniency=Leniency.POSSIBLE, max_tries=1000):
            parts += [head[end : match.start], "[phone]"]
            end = match.end
        return "".join(parts) + head[end:] + _MANY_DIGITS.sub("[phone]", tail)


def _if_secret(found: "re.Match[str]") -> str:
    """Words are none; what has a digit or a sign in it may be one."""
    return found[0] if found[2].isalpha() else f"{found[1]}[key]"


def _is_card(text: str) -> bool:
    digits = [int(character) for character in reversed(text) if character.isdecimal()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return 12 <= len(digits) <= 19 and (sum(digits[::2]) + sum(doubled)) % 10 == 0
