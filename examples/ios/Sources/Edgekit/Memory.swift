import CEdgekit
import Foundation

/// A file's bytes, at one address as long as this object lives.
final class Bytes: @unchecked Sendable {
    let start: UnsafeRawPointer
    let count: Int
    private let data: NSData?

    /// Maps a file into memory: its pages are read when they are needed, and can be dropped when memory is short.
    init(path: String) throws {
        func failed() -> EdgekitError { EdgekitError(.file, "cannot read \(path): \(String(cString: strerror(errno)))") }
        let file = open(path, O_RDONLY)
        if file < 0 { throw failed() }
        defer { close(file) }
        var info = stat()
        if fstat(file, &info) != 0 { throw failed() }
        if info.st_mode & S_IFMT != S_IFREG { throw EdgekitError(.file, "cannot read \(path): it is not a file") }
        if info.st_size == 0 { throw EdgekitError(.damaged, "\(path): the file is empty") }
        count = Int(info.st_size)
        guard let mapped = mmap(nil, count, PROT_READ, MAP_PRIVATE, file, 0), mapped != MAP_FAILED else { throw failed() }
        (start, data) = (UnsafeRawPointer(mapped), nil)
    }

    init(_ given: Data) throws {
        if given.isEmpty { throw EdgekitError(.damaged, "the model's data is empty") }
        let kept = NSData(data: given)
        (start, count, data) = (kept.bytes, kept.length, kept)
    }

    deinit {
        if data == nil { munmap(UnsafeMutableRawPointer(mutating: start), count) }
    }
}

/// A block of memory for an object of the engine.
final class Block: @unchecked Sendable {
    let address: UnsafeMutableRawPointer
    let size: Int

    init(_ size: Int, for what: String) throws {
        var address: UnsafeMutableRawPointer?
        // A size above Int.max arrives as a negative one.
        guard size >= 0, posix_memalign(&address, Int(EK_ALIGNMENT), max(size, 1)) == 0, let address else {
            throw EdgekitError(.memory, "\(what) needs \(UInt(bitPattern: size)) bytes of memory, which cannot be had")
        }
        (self.address, self.size) = (address, size)
    }

    deinit { free(address) }
}
