"""examples/microcontroller: a Cortex-M image in qemu tells Python's story, in the memory that the README names."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import edgekit
from edgekit.conversion import convert
from edgekit.settings import Converting

BOARD = Path(__file__).resolve().parents[1] / "examples" / "microcontroller" / "cortex-m"
MOST_BYTES = 312_000  # of the README: at 64 positions, with the stack


@pytest.fixture(scope="module")
def story(bundled, tmp_path_factory):
    """The bundled model at q4_0."""
    folder = tmp_path_factory.mktemp("story")
    return convert.convert(bundled, "gguf", folder / "story.gguf", settings=Converting("q4_0"))[0]


@pytest.fixture(scope="module")
def image(story, tmp_path_factory):
    """Builds the image of a model: `image(model, RAM=...)` is its path. The engine is compiled once."""
    for program, package in (("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("qemu-system-arm", "qemu-system-arm")):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt install {package}")
    if shutil.which("make") is None:
        pytest.skip("needs make")
    folder = tmp_path_factory.mktemp("cortex-m")

    def build(model=story, **variables):
        for name in ("story.elf", "model.o"):
            (folder / name).unlink(missing_ok=True)
        settings = {"MODEL": model, "BUILD": folder, **variables}
        command = ["make", "-s", "-C", BOARD, *(f"{name}={value}" for name, value in settings.items())]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert (done.returncode, done.stdout) == (0, "")
        return folder / "story.elf"

    return build


def run(image, prompt, *, seed=7, tokens=0):
    """Status and output of the image in qemu."""
    words = ("story", seed, tokens, prompt)
    arguments = ",".join(f"arg={str(word).replace(',', ',,')}" for word in words)
    command = ["qemu-system-arm", "-M", "mps2-an500", "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", f"enable=on,target=native,{arguments}", "-kernel", image]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_image_tells_the_story_of_python_in_the_memory_of_the_readme(image, story):
    status, output = run(image(), "Once upon a time")
    assert status == 0, output
    text, table = output.split("\n\nmodel ")
    context = int(re.search(r"at a context of (\d+)", table)[1])
    model = edgekit.load(story, runtime="native", kv_type="int8")
    prompt = "Once upon a time"
    result = model.generate(prompt, seed=7, max_new_tokens=context + 1 - len(model.encode(prompt)))
    assert (text, context) == (prompt + result.text, 64)
    assert f"{len(result.prompt)} of the prompt, {len(result.tokens)} new" in table
    assert int(re.search(r"together +(\d+) bytes", table)[1]) < MOST_BYTES


def test_make_run_takes_prompt_seed_and_length(image, story):
    prompt = "The cat's friend, a grey one, said"
    settings = {"MODEL": story, "BUILD": image().parent, "SEED": 12, "TOKENS": 5, "PROMPT": prompt}
    command = ["make", "-s", "-C", BOARD, "run", *(f"{name}={value}" for name, value in settings.items())]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    model = edgekit.load(story, runtime="native", kv_type="int8")
    assert done.returncode == 0, done.stderr
    assert done.stderr.split("\n\nmodel ")[0] == prompt + model.generate(prompt, seed=12, max_new_tokens=5).text


def test_image_refuses_what_does_not_fit_in_one_line(image, story, tmp_path):
    words = " ".join(["The cat sat on the mat."] * 12)
    status, output = run(image(), words)
    assert status == 1
    assert re.fullmatch(r"story: the prompt has \d+ tokens, but the context holds 64\n", output)
    status, output = run(image(RAM="256K"), "Once")
    assert (status, output) == (1, "story: the board has too little memory for this context: take a shorter one\n")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.9])
def test_image_with_a_model_cut_short_says_so(image, story, tmp_path, keep):
    data = story.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: int(len(data) * keep)])
    status, output = run(image(cut), "Once")
    assert status == 1
    assert re.fullmatch(r"story: [^\n]+(GGUF|cut off|cut short|end|damaged)[^\n]*\n", output)


# What main.c uses of ESP-IDF 5 and of C's library.
ESP_HEADERS = {
    "stdio.h": """#include <stddef.h>
        typedef struct file FILE; extern FILE *stdout; int fflush(FILE *file);
        size_t fwrite(const void *data, size_t size, size_t count, FILE *file);
        __attribute__((format(printf, 1, 2))) int printf(const char *format, ...);""",
    "esp_heap_caps.h": """#include <stddef.h>
        #include <stdint.h>
        #define MALLOC_CAP_8BIT (1 << 2)
        #define MALLOC_CAP_SPIRAM (1 << 10)
        #define MALLOC_CAP_INTERNAL (1 << 11)
        void *heap_caps_aligned_alloc(size_t alignment, size_t size, uint32_t caps);
        void heap_caps_free(void *memory);""",
    "esp_partition.h": """#include <stddef.h>
        #include <stdint.h>
        typedef int esp_err_t;
        #define ESP_OK 0
        typedef enum { ESP_PARTITION_TYPE_APP, ESP_PARTITION_TYPE_DATA } esp_partition_type_t;
        typedef enum { ESP_PARTITION_SUBTYPE_ANY = 0xff } esp_partition_subtype_t;
        typedef enum { ESP_PARTITION_MMAP_DATA, ESP_PARTITION_MMAP_INST } esp_partition_mmap_memory_t;
        typedef uint32_t esp_partition_mmap_handle_t;
        typedef struct { uint32_t address, size, erase_size; char label[17]; } esp_partition_t;
        const esp_partition_t *esp_partition_find_first(esp_partition_type_t type, esp_partition_subtype_t subtype,
                                                        const char *label);
        esp_err_t esp_partition_mmap(const esp_partition_t *partition, size_t offset, size_t size,
                                     esp_partition_mmap_memory_t memory, const void **out,
                                     esp_partition_mmap_handle_t *handle);
        void esp_partition_munmap(esp_partition_mmap_handle_t handle);""",
}


def test_esp_idf_sources_compile_for_riscv_without_a_library(tmp_path):
    if shutil.which("clang") is None:
        pytest.skip("needs clang: apt install clang")
    for name, text in ESP_HEADERS.items():
        (tmp_path / name).write_text(text)
    engine, example = BOARD.parents[2] / "engine", BOARD.parent
    sources = [*sorted(engine.glob("*.c")), example / "story.c", example / "esp-idf" / "main" / "main.c"]
    command = ["clang", "--target=riscv32-unknown-elf", "-march=rv32imafc", "-ffreestanding", "-fsyntax-only"]
    command += ["-std=c11", "-Wall", "-Wextra", "-Werror", "-DEK_NO_THREADS"]
    command += ["-I", tmp_path, "-I", engine, "-I", example]
    done = subprocess.run([*command, *sources], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_esp_idf_partitions_hold_program_and_model(story):
    """As ESP-IDF's gen_esp32part.py wants them: no overlap, an app at a multiple of 64 kB, all within 8 MB."""
    lines = (BOARD.parent / "esp-idf" / "partitions.csv").read_text().splitlines()
    rows = [[field.strip() for field in line.split(",")] for line in lines if not line.startswith("#")]
    end = 0x9000
    for _, kind, _, offset, size in rows:
        assert int(offset, 16) >= end and int(offset, 16) % (0x10000 if kind == "app" else 0x1000) == 0
        end = int(offset, 16) + int(size, 16)
    assert end <= 8 << 20
    assert [row[0] for row in rows][-1] == "model" and int(rows[-1][4], 16) >= story.stat().st_size
