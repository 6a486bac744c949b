package etcd

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/batondb/baton/test/etcd/servers"
)

// TestClient: etcd's own client, with all pods, writes and reads.
func TestClient(t *testing.T) {
	pods := servers.Baton(t, 3)
	client, err := clientv3.New(clientv3.Config{Endpoints: pods.Endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const keys = 20
	for i := range keys {
		if _, err := client.Put(ctx, fmt.Sprintf("key-%02d", i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	page, err := client.Get(ctx, "key-", clientv3.WithPrefix(), clientv3.WithLimit(7))
	if err != nil || len(page.Kvs) != 7 || !page.More || page.Count != keys {
		t.Fatalf("a page is %v, %v", page, err)
	}
	streamed, err := client.GetStream(ctx, "key-", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := clientv3.GetStreamToGetResponse(streamed)
	if err != nil || whole.Count != keys || whole.Header.Revision != page.Header.Revision {
		t.Fatalf("a stream is %v, %v", whole, err)
	}
	gone, err := client.Delete(ctx, "key-1", clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil || gone.Deleted != 10 || len(gone.PrevKvs) != 10 {
		t.Fatalf("deletion gives %v, %v", gone, err)
	}
	if _, err := client.Compact(ctx, gone.Header.Revision); err != nil {
		t.Fatal(err)
	}
}
