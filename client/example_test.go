package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"github.com/batondb/baton/client"
	"github.com/batondb/baton/client/clienttest"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	kvd "github.com/batondb/baton/test/cluster"
)

// endpoints are of the cluster that the examples talk to. With
// BATON_TEST_ENDPOINT set it is a real one.
var endpoints []string

func TestMain(m *testing.M) {
	if given := os.Getenv("BATON_TEST_ENDPOINT"); given != "" {
		endpoints = []string{given}
		os.Exit(kvd.Main(m))
	}
	fake, err := clienttest.Start(3)
	if err != nil {
		log.Fatal(err)
	}
	endpoints = fake.Endpoints()
	code := kvd.Main(m)
	fake.Close()
	os.Exit(code)
}

func open() (*client.Client, context.Context, func()) {
	c, err := client.New(client.Options{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	return c, ctx, func() {
		cancel()
		_ = c.Close()
	}
}

func Example() {
	c, err := client.New(client.Options{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	if _, err := c.Put(ctx, "example/greeting", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	kv, err := c.Get(ctx, "example/greeting")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", kv.GetValue())

	_, err = c.Get(ctx, "example/no such key")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	// Output:
	// hello
	// true
}

func ExampleClient_Scan() {
	c, ctx, done := open()
	defer done()
	for _, name := range []string{"ann", "bob", "cid"} {
		if _, err := c.Put(ctx, "example-scan/"+name, []byte("a user")); err != nil {
			log.Fatal(err)
		}
	}
	for kv, err := range c.Scan(ctx, client.Prefix("example-scan/"), client.KeysOnly()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", kv.GetKey())
	}
	// Output:
	// example-scan/ann
	// example-scan/bob
	// example-scan/cid
}

// A read that is not older than what this client has seen, from any pod and
// without asking the master.
func ExampleClient_Revision() {
	c, ctx, done := open()
	defer done()
	if _, err := c.Put(ctx, "example-local", []byte("mine")); err != nil {
		log.Fatal(err)
	}
	kv, err := c.Get(ctx, "example-local", client.LocalRead(), client.MinRevision(c.Revision()))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", kv.GetValue())
	// Output: mine
}

// Change a value only if nobody else did since it was read.
func ExampleTxn() {
	c, ctx, done := open()
	defer done()
	if _, err := c.Put(ctx, "example-txn", []byte("10")); err != nil {
		log.Fatal(err)
	}
	kv, err := c.Get(ctx, "example-txn")
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		response, err := c.Txn().
			IfModRevision("example-txn", "=", kv.GetModRevision()).
			Put("example-txn", []byte("11")).
			Else().Get(client.Key("example-txn")).
			Commit(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if response.GetSucceeded() {
			fmt.Println("changed")
		} else {
			now := response.GetResults()[0].GetRange().GetKvs()[0]
			fmt.Printf("somebody was faster: %s\n", now.GetValue())
		}
	}
	// Output:
	// changed
	// somebody was faster: 11
}

func ExampleClient_Watch() {
	c, ctx, done := open()
	defer done()
	put, err := c.Put(ctx, "example-watch/a", []byte("1"))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Delete(ctx, client.Key("example-watch/a")); err != nil {
		log.Fatal(err)
	}
	events := 0
	for response, err := range c.Watch(ctx, client.Prefix("example-watch/"), client.FromRevision(put.GetHeader().GetRevision())) {
		if err != nil {
			log.Fatal(err)
		}
		for _, e := range response.GetEvents() {
			fmt.Printf("%v %s\n", e.GetType() == kvv1.Event_TYPE_PUT, e.GetKv().GetKey())
			events++
		}
		if events == 2 {
			break
		}
	}
	// Output:
	// true example-watch/a
	// false example-watch/a
}

func ExampleClient_KeepAlive() {
	c, ctx, done := open()
	defer done()
	lease, err := c.Grant(ctx, 5*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	held, err := c.KeepAlive(ctx, lease)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Put(ctx, "example-lease/me", []byte("alive"), client.WithLease(lease)); err != nil {
		log.Fatal(err)
	}
	revoked, err := c.Revoke(ctx, lease)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(revoked.GetDeleted(), "key went with the lease")
	<-held.Done()
	fmt.Println(context.Cause(held))
	// Output:
	// 1 key went with the lease
	// lease not found
}

func ExampleClient_Lock() {
	c, ctx, done := open()
	defer done()
	lock, err := c.Lock(ctx, "example-lock")
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Unlock(ctx)
	work := func(ctx context.Context, token int64) {
		// Stops when ctx ends; the storage refuses a token lower than one it has seen.
		fmt.Println(ctx.Err() == nil, token > 0)
	}
	work(lock.Context(), lock.Token())
	// Output: true true
}

func ExampleClient_Campaign() {
	c, ctx, done := open()
	defer done()
	leadership, err := c.Campaign(ctx, "example-election", []byte("host-1"))
	if err != nil {
		log.Fatal(err)
	}
	leader, err := c.Leader(ctx, "example-election")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", leader.GetValue())
	if err := leadership.Unlock(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: host-1
}

// Many small writes, gathered into few messages.
func ExampleBatcher() {
	c, ctx, done := open()
	defer done()
	b, err := c.NewBatcher(client.BatchOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	for i := range 1000 {
		err := b.PutAsync(ctx, fmt.Sprint("example-batch/", i), nil, func(_ int64, err error) {
			if err != nil {
				log.Print(err)
			}
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := b.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	n, err := c.Count(ctx, client.Prefix("example-batch/"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n)
	// Output: 1000
}
