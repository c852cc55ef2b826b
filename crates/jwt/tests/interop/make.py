"""Makes tokens.json: a key set and a token by every algorithm, by a library that is not ours.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install pyjwt==2.10.1 cryptography
    /tmp/venv/bin/python crates/jwt/tests/interop/make.py > crates/jwt/tests/interop/tokens.json

The keys are new with each run, and only their public halves (and the secrets of HS*) are written.
"""

import json
import secrets
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

claims = {
    "iss": "https://issuer.example",
    "sub": "grüße-user",
    "aud": ["api", "other"],
    "iat": 1700000000,
    "exp": 4102444800,
    "scope": "read write",
    "realm_access": {"roles": ["admin", "user"]},
}
rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
keys = {
    **{f"{kind}{bits}": rsa_key for kind in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    **{f"HS{bits}": secrets.token_bytes(bits // 8) for bits in (256, 384, 512)},
}
rows = {}
for name, key in keys.items():
    algorithm = get_default_algorithms()[name]
    public = key if isinstance(key, bytes) else key.public_key()
    jwk = algorithm.to_jwk(public, as_dict=True)
    jwk.update(kid=name.lower(), alg=name)
    rows[name] = {"jwk": jwk, "token": jwt.encode(claims, key, name, headers={"kid": name.lower()})}
json.dump({"library": f"PyJWT {jwt.__version__}", "rows": rows}, sys.stdout, indent=1, ensure_ascii=False)
print()
