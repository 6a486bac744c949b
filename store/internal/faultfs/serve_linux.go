package faultfs

import (
	"bufio"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// recorder is the serving side.
type recorder struct {
	mu    sync.Mutex
	out   *gob.Encoder
	count int
	fault fault
}

// fault makes operations fail: after so many more writes and syncs all of them.
type fault struct {
	Errno syscall.Errno
	After int
}

// record notes an operation that will be done now, or returns why it is not.
func (r *recorder) record(op Op) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault.Errno != 0 && op.Kind != Mark {
		if r.fault.After <= 0 {
			return r.fault.Errno
		}
		r.fault.After--
	}
	if err := r.out.Encode(op); err != nil {
		return syscall.EIO
	}
	r.count++
	return 0
}

type node struct {
	fs.LoopbackNode
	recorder *recorder
}

func (n *node) path() string { return n.Path(n.Root()) }

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

var (
	_ fs.NodeCreater         = (*node)(nil)
	_ fs.NodeOpener          = (*node)(nil)
	_ fs.NodeOpendirHandler  = (*node)(nil)
	_ fs.NodeWriter          = (*node)(nil)
	_ fs.NodeFsyncer         = (*node)(nil)
	_ fs.NodeSetattrer       = (*node)(nil)
	_ fs.NodeRenamer         = (*node)(nil)
	_ fs.NodeUnlinker        = (*node)(nil)
	_ fs.FileFsyncdirer      = directory{}
	_ fs.FilePassthroughFder = (*fs.LoopbackFile)(nil) // What handle hides.
)

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.recorder.record(Op{Kind: Create, Path: join(n.path(), name)}); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, f, more, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, handle{f}, more | fuse.FOPEN_KEEP_CACHE, errno
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, more, errno := n.LoopbackNode.Open(ctx, flags)
	return handle{f}, more | fuse.FOPEN_KEEP_CACHE, errno
}

// handle hides what lets the kernel write to the backing file without asking.
type handle struct{ file fs.FileHandle }

func (h handle) Read(ctx context.Context, buffer []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return h.file.(fs.FileReader).Read(ctx, buffer, off)
}

func (h handle) Release(ctx context.Context) syscall.Errno {
	return h.file.(fs.FileReleaser).Release(ctx)
}

func (n *node) Write(ctx context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.recorder.record(Op{Kind: Write, Path: n.path(), Offset: off, Data: data}); errno != 0 {
		return 0, errno
	}
	return f.(handle).file.(fs.FileWriter).Write(ctx, data, off)
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, more, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return directory{f.(openDirectory), n}, more, 0
}

type openDirectory interface {
	fs.FileReaddirenter
	fs.FileReleasedirer
	fs.FileSeekdirer
}

type directory struct {
	openDirectory openDirectory
	node          *node
}

func (d directory) Fsyncdir(context.Context, uint32) syscall.Errno {
	return d.node.recorder.record(Op{Kind: SyncDir, Path: d.node.path()})
}

func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	// Nothing to sync in truth: the machine does not crash.
	return n.recorder.record(Op{Kind: Sync, Path: n.path()})
}

func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if errno := n.recorder.record(Op{Kind: Truncate, Path: n.path(), Offset: int64(size)}); errno != 0 {
			return errno
		}
	}
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, to string, flags uint32) syscall.Errno {
	op := Op{Kind: Rename, Path: join(n.path(), name), To: join(parent.EmbeddedInode().Path(n.Root()), to)}
	if errno := n.recorder.record(op); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, parent, to, flags)
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.recorder.record(Op{Kind: Remove, Path: join(n.path(), name)}); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

// request is what the test's process asks the serving one.
type request struct {
	Mark  int64
	Fault *fault
}

// serve mounts, answers requests until standard input ends, and unmounts.
func serve(backing, mountPoint, record string) error {
	file, err := os.Create(record)
	if err != nil {
		return err
	}
	r := &recorder{out: gob.NewEncoder(file)}
	root := &fs.LoopbackRoot{Path: backing}
	//nolint:staticcheck // The wrapping that replaces it cannot see files that are open.
	root.NewNode = func(root *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &node{LoopbackNode: fs.LoopbackNode{RootData: root}, recorder: r}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(backing, &st); err != nil {
		return err
	}
	root.Dev = uint64(st.Dev)                    //nolint:unconvert // Of another type elsewhere.
	rootNode := root.NewNode(root, nil, "", &st) //nolint:staticcheck // As above.
	root.RootNode = rootNode
	server, err := fs.Mount(mountPoint, rootNode, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, FsName: "faultfs",
			// Nobody else writes to the backing directory. Otherwise the kernel drops
			// cached pages when it sees a new time of change, and may read one again
			// before the write that is under way: a mapping would show the old page.
			ExplicitDataCacheControl: true,
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("mounted")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var req request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			return err
		}
		if req.Mark != 0 {
			r.record(Op{Kind: Mark, Offset: req.Mark})
		}
		r.mu.Lock()
		if req.Fault != nil {
			r.fault = *req.Fault
		}
		fmt.Println(r.count)
		r.mu.Unlock()
	}
	if err := server.Unmount(); err != nil {
		// Somebody still has a file open: the mount goes when that ends.
		if err := syscall.Unmount(mountPoint, syscall.MNT_DETACH); err != nil {
			return err
		}
	}
	return file.Close()
}
