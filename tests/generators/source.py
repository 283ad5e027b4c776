"""A C program of many functions: work for a compiler, with an answer that the program prints."""

from pathlib import Path
from random import Random


def c_program(path: Path, *, functions: int, statements: int = 30, seed: int = 5) -> Path:
    """Writes one C file, which includes nothing; the program prints a number that depends on every function."""
    random = Random(seed)
    with path.open("w", encoding="ascii") as out:
        out.write("typedef unsigned int uint32_t;\nint printf(const char *, ...);\n")
        for number in range(functions):
            out.write(_function(number, statements, random))
        out.write("int main(void) {\n    uint32_t sum = 1;\n")
        out.writelines(f"    sum = f{number}(sum, {number}u);\n" for number in range(functions))
        out.write('    printf("%u\\n", sum);\n    return 0;\n}\n')
    return path


def _function(number: int, statements: int, random: Random) -> str:
    lines = [f"uint32_t f{number}(uint32_t a, uint32_t b) {{", "    uint32_t t[8] = {a, b, a ^ b, 3, 4, 5, 6, 7};"]
    for _ in range(statements):
        to, left, right = (random.randrange(8) for _ in range(3))
        operator = random.choice("+-*^|&")
        constant = random.randrange(1, 1 << 16)
        lines.append(f"    t[{to}] = (t[{left}] {operator} t[{right}]) + {constant}u;")
        if random.random() < 0.2:
            lines.append(
                f"    for (uint32_t i = 0; i < (t[{left}] & 7u); i++) t[{to}] += t[i] >> {random.randrange(1, 8)};"
            )
    lines.append("    return t[0] ^ t[1] ^ t[2] ^ t[3] ^ t[4] ^ t[5] ^ t[6] ^ t[7];\n}\n")
    return "\n".join(lines)
