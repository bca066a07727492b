import CEdgekit
import Foundation

/// What went wrong, in one sentence: the engine's own wherever it has one.
public struct EdgekitError: Error, LocalizedError, CustomStringConvertible, Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// The file cannot be read.
        case file
        /// The file is cut short or contradicts itself.
        case damaged
        /// Another format, architecture or type.
        case unsupported
        /// Memory cannot be had.
        case memory
        /// A setting or an id is out of range, or the prompt is empty.
        case argument
        /// The prompt is longer than the context.
        case context
        /// Every token is banned.
        case noToken
        /// The logits are not finite: a bias is too large, or the model is damaged.
        case notFinite
    }

    public let kind: Kind
    public let message: String
    public var description: String { message }
    public var errorDescription: String? { message }

    init(_ kind: Kind, _ message: String) { (self.kind, self.message) = (kind, message) }

    /// Of a negative status.
    init(_ status: Int32, _ text: String = "") {
        kind = EdgekitError.kinds[status] ?? .argument
        message = text.isEmpty ? EdgekitError.sentences[kind] ?? "the engine failed with status \(status)" : text
    }

    private static let kinds: [Int32: Kind] = [
        EK_DAMAGED.rawValue: .damaged, EK_UNSUPPORTED.rawValue: .unsupported, EK_MEMORY.rawValue: .memory,
        EK_ARGUMENT.rawValue: .argument, EK_CONTEXT.rawValue: .context, EK_NO_TOKEN.rawValue: .noToken,
        EK_NOT_FINITE.rawValue: .notFinite,
    ]

    /// For calls that return only a status.
    private static let sentences: [Kind: String] = [
        .argument: "a token is outside the vocabulary, or the temperature is too small to divide by",
        .context: "the tokens do not fit into the context",
        .noToken: "every token is banned: nothing can follow",
        .notFinite: "the logits are not finite: a bias is too large, or the model is damaged",
    ]
}

/// Calls a function of the engine that explains its errors; `what` comes before the sentence.
func check(_ what: String = "", _ call: (UnsafeMutablePointer<ek_error>) -> Int32) throws {
    var error = ek_error()
    let status = call(&error)
    if status >= 0 { return }
    let text = withUnsafeBytes(of: error.text) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    let plain = EdgekitError(status, text)
    throw what.isEmpty ? plain : EdgekitError(plain.kind, "\(what): \(plain.message)")
}
