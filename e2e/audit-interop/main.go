// Command audit-interop checks a Seawall audit log with golang.org/x/mod/sumdb: the checkpoint's
// signature with its note package, and with its tlog package every leaf hash against its entry, every
// tile against the root, and a proof's path.
//
//	audit-interop DIRECTORY VKEY [PROOF ENTRY]
//
// It prints the size and the root, or what is wrong.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "audit-interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 && len(args) != 4 {
		return errors.New("usage: audit-interop DIRECTORY VKEY [PROOF ENTRY]")
	}
	text, err := os.ReadFile(filepath.Join(args[0], "checkpoint"))
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(text, args[1])
	if err != nil {
		return err
	}
	if err := checkEntries(args[0], tree); err != nil {
		return err
	}
	if len(args) == 4 {
		if err := checkProof(args[2], args[3], args[1]); err != nil {
			return fmt.Errorf("proof: %w", err)
		}
	}
	fmt.Printf("%d %s\n", tree.N, hex.EncodeToString(tree.Hash[:]))
	return nil
}

func openCheckpoint(text []byte, vkey string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	// Not tlog.ParseTree: that takes the Go checksum database's own first line only.
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() || lines[3] != "" {
		return tlog.Tree{}, fmt.Errorf("unexpected checkpoint %q", opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// checkEntries hashes every entry and compares with the leaf hash that the authenticated tiles hold.
func checkEntries(directory string, tree tlog.Tree) error {
	tiles := tlog.TileHashReader(tree, &tileDirectory{directory})
	for first := int64(0); first < tree.N; first += 1 << height {
		width := min(tree.N-first, 1<<height)
		entries, err := readBundle(directory, first>>height, int(width))
		if err != nil {
			return err
		}
		var places []int64
		for i := range width {
			places = append(places, tlog.StoredHashIndex(0, first+i))
		}
		// The reader checks the tiles it reads up to the root.
		hashes, err := tiles.ReadHashes(places)
		if err != nil {
			return err
		}
		for i, entry := range entries {
			if tlog.RecordHash(entry) != hashes[i] {
				return fmt.Errorf("entry %d is not what its leaf hash says", first+int64(i))
			}
		}
	}
	root, err := tlog.TreeHash(tree.N, tiles)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return fmt.Errorf("the tiles give the root %v, the checkpoint says %v", root, tree.Hash)
	}
	return nil
}

func readBundle(directory string, index int64, width int) ([][]byte, error) {
	tile := tlog.Tile{H: height, L: -1, N: index, W: width}
	bytes, err := os.ReadFile(filepath.Join(directory, path(tile)))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(bytes) > 0 {
		if len(bytes) < 2 {
			return nil, errors.New("a bundle ends in a length")
		}
		length := int(binary.BigEndian.Uint16(bytes))
		if len(bytes) < 2+length {
			return nil, errors.New("a bundle ends in an entry")
		}
		entries = append(entries, bytes[2:2+length])
		bytes = bytes[2+length:]
	}
	if len(entries) != width {
		return nil, fmt.Errorf("bundle %d has %d entries, not %d", index, len(entries), width)
	}
	return entries, nil
}

// path is tlog's path of a tile as c2sp.org/tlog-tiles writes it: without the height, and with
// entries in place of data.
func path(tile tlog.Tile) string {
	rest := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	return "tile/" + strings.Replace(rest, "data/", "entries/", 1)
}

type tileDirectory struct{ directory string }

func (t *tileDirectory) Height() int { return height }

func (t *tileDirectory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		bytes, err := os.ReadFile(filepath.Join(t.directory, path(tile)))
		if err != nil {
			return nil, err
		}
		all = append(all, bytes)
	}
	return all, nil
}

func (t *tileDirectory) SaveTiles([]tlog.Tile, [][]byte) {}

// checkProof reads a c2sp.org/tlog-proof and checks it with tlog.CheckRecord.
func checkProof(proofFile, entryFile, vkey string) error {
	text, err := os.ReadFile(proofFile)
	if err != nil {
		return err
	}
	entry, err := os.ReadFile(entryFile)
	if err != nil {
		return err
	}
	head, checkpoint, found := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("not a proof")
	}
	number, found := strings.CutPrefix(lines[1], "index ")
	index, err := strconv.ParseInt(number, 10, 64)
	if !found || err != nil {
		return errors.New("no index")
	}
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		bytes, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(bytes) != tlog.HashSize {
			return errors.New("a line of the path is no hash")
		}
		proof = append(proof, tlog.Hash(bytes))
	}
	tree, err := openCheckpoint([]byte(checkpoint), vkey)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry))
}
