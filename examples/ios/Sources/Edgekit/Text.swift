import CEdgekit
import Foundation

/// Why a text ended.
public enum Finish: String, Hashable, Sendable {
    /// The model ended it, or a stop string came.
    case stop
    /// `maxNewTokens`, or the context is full.
    case length
    case cancelled
}

/// One new token.
public struct Step: Hashable, Sendable {
    /// nil in the step that a cancelled text ends with.
    public let token: UInt32?
    /// What became certain with it; empty while a character, or what may be a stop string, is unfinished.
    public let text: String
    /// nil: the text continues.
    public let finish: Finish?
}

/// A text in the making. Only the engine's actor uses its variables.
final class Text: @unchecked Sendable {
    let prompt: [UInt32]
    let settings: Settings
    let seed: UInt64
    var tokens: [UInt32] = []
    var finish: Finish?
    private(set) var generation: OpaquePointer?
    /// The generation's memory, its prompt and its stop strings, which are the engine's while it lasts.
    private var memory: [Block] = []

    init(_ prompt: [UInt32], _ settings: Settings, seed: UInt64) {
        (self.prompt, self.settings, self.seed) = (prompt, settings, seed)
    }

    func start(_ model: OpaquePointer, _ tokenizer: Tokenizer, reuse: Int) throws -> OpaquePointer {
        let ids = try Text.copy(prompt)
        let stops = try settings.stop.map { text in
            if text.utf8.contains(0) { throw EdgekitError(.argument, "stop: a text has a NUL character") }
            return try Text.copy(Array(text.utf8CString))
        }
        let addresses: [UnsafePointer<CChar>?] = stops.map { UnsafePointer($0.address.assumingMemoryBound(to: CChar.self)) }
        let list = try Text.copy(addresses)
        memory = stops + [ids, list]
        let start = UnsafePointer(ids.address.assumingMemoryBound(to: UInt32.self))
        let count = UInt32(prompt.count)
        return try settings.withEngine(seed: seed) { settings in
            settings.stops = UnsafePointer(list.address.assumingMemoryBound(to: UnsafePointer<CChar>?.self))
            (settings.stop_count, settings.reuse) = (UInt32(stops.count), UInt32(reuse))
            let size = ek_generation_size(model, tokenizer.pointer, &settings, count)
            let block = try Block(size, for: "the text")
            var opened: OpaquePointer?
            try check { error in
                ek_generation_start(
                    &opened, block.address, size, model, tokenizer.pointer, &settings, start, count, error)
            }
            memory.append(block)
            generation = opened
            return opened!
        }
    }

    func step(_ token: ek_new_token, id: UInt32?) -> Step {
        switch token.finish {
        case UInt32(EK_STOPPED): finish = .stop
        case UInt32(EK_LENGTH): finish = .length
        case UInt32(EK_CANCELLED): finish = .cancelled
        default: break
        }
        let text = String(decoding: UnsafeRawBufferPointer(start: token.text, count: token.length), as: UTF8.self)
        if finish != nil { (generation, memory) = (nil, []) }
        return Step(token: id, text: text, finish: finish)
    }

    private static func copy<Item>(_ items: [Item]) throws -> Block {
        let block = try Block(items.count * MemoryLayout<Item>.stride, for: "the prompt")
        items.withUnsafeBytes { block.address.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(block.address), byteCount: $0.count) }
        return block
    }
}
