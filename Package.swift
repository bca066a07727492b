// swift-tools-version:5.9
// For iOS, macOS and Linux: `.package(url: "<this repository>", branch: "main")`. examples/ios/README.md shows its use.
import PackageDescription

// Named one by one, so that engine/tests and what is built into engine/build stay out.
let engine = [
    "attention.c", "bpe.c", "bpe_vocabulary.c", "bpe_words.c", "capcode.c", "config.c", "cpu_x86.c",
    "defaults.c", "direct.c", "error.c", "forward.c", "generate.c", "gguf.c", "instructions.c",
    "kernels_avx2.c", "kernels_avx512.c", "kernels_avxvnni.c", "kernels_c.c", "kernels_dotprod.c",
    "kernels_neon.c", "kernels_wasm.c", "model.c", "normalizer.c", "numeric.c", "places.c", "quant.c",
    "sampler.c", "sampler_draw.c", "sampler_filter.c", "sampler_lean.c", "sampler_loops.c",
    "sampler_math.c", "sampler_rules.c", "sampler_select.c", "schedule.c", "specials.c", "state.c",
    "steps_c.c", "stop_text.c", "threads_posix.c", "threads_windows.c", "tiles.c", "tokenizer.c",
    "tokenizer_use.c", "tokenmonster.c", "tokenmonster_file.c", "tokenmonster_record.c",
    "tokenmonster_trie.c", "unicode.c", "utf8_mask.c", "values.c",
]

let package = Package(
    name: "edgekit",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "Edgekit", targets: ["Edgekit"])],
    targets: [
        .target(name: "CEdgekit", path: "engine", sources: engine, publicHeadersPath: "swift"),
        .target(name: "Edgekit", dependencies: ["CEdgekit"], path: "examples/ios/Sources/Edgekit"),
        .executableTarget(name: "GoldenCheck", dependencies: ["Edgekit"], path: "examples/ios/Sources/GoldenCheck"),
    ],
    cLanguageStandard: .c99
)
