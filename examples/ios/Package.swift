// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "Edgekit",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "Edgekit", targets: ["Edgekit"]),
        .library(name: "EdgekitOnnx", targets: ["EdgekitOnnx"]),
    ],
    dependencies: [
        .package(url: "https://github.com/microsoft/onnxruntime-swift-package-manager", from: "1.20.0")
    ],
    targets: [
        .target(name: "Edgekit"),
        .target(
            name: "EdgekitOnnx",
            dependencies: ["Edgekit", .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")]),
        .executableTarget(name: "GoldenCheck", dependencies: ["Edgekit"]),
    ]
)
