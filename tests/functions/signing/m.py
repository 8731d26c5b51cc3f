"""Textbook RSA in pure Python: finds primes of the event's size, signs, checks, and shows that a forgery fails."""

import hashlib
import random


def probably_prime(n, rounds=16):
    if n % 2 == 0 or n < 5:
        return n in (2, 3)
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for _ in range(rounds):
        x = pow(random.randrange(2, n - 1), d, n)
        if x in (1, n - 1):
            continue
        for _ in range(s - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def prime(bits):
    while True:
        n = random.getrandbits(bits) | 1 << bits - 1 | 1
        if n % 65537 != 1 and probably_prime(n):
            return n


def f(event, context):
    p, q = prime(event["bits"]), prime(event["bits"])
    modulus, secret = p * q, pow(65537, -1, (p - 1) * (q - 1))
    digest = int.from_bytes(hashlib.sha256(event["text"].encode()).digest(), "big") % modulus
    signature = pow(digest, secret, modulus)
    return {
        "modulus": str(modulus),
        "valid": pow(signature, 65537, modulus) == digest,
        "forged": pow(signature + 1, 65537, modulus) == digest,
    }
