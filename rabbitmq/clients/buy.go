// Buys from Turnstile: sends one purchase request, waits for its verdict and prints it.
//
//	go mod init buy && go get github.com/rabbitmq/amqp091-go
//	AMQP_URL=amqp://guest:guest@localhost:5672/%2f go run buy.go ITEM BUYER QUANTITY REQUEST_ID
//
// Exit code 0: the units are reserved. 1: they are not, or there is no verdict; the same REQUEST_ID gets the same one.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: go run buy.go ITEM BUYER QUANTITY REQUEST_ID")
	}
	item, id, quantity := os.Args[1], os.Args[4], must(strconv.Atoi(os.Args[3]))
	body := must(json.Marshal(map[string]any{"request_id": id, "item": item, "buyer": os.Args[2], "quantity": quantity}))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	connection := must(amqp.Dial(os.Getenv("AMQP_URL")))
	channel := must(connection.Channel())
	must(0, channel.Confirm(false))
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	replies := must(channel.QueueDeclare("", false, true, true, false, nil)) // exclusive, named by the broker
	verdicts := must(channel.Consume(replies.Name, "", true, true, false, false, nil))
	// The routing key is the item: requests for one item share a queue, which keeps them in order.
	must(channel.PublishWithDeferredConfirmWithContext(ctx, "purchase", item, true, false, amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, ReplyTo: replies.Name, CorrelationId: id, Body: body,
		UserId: must(amqp.ParseURI(os.Getenv("AMQP_URL"))).Username, // the broker takes no other: id and order are this user's own
	})).Wait()

	select {
	case verdict := <-verdicts:
		fmt.Println(string(verdict.Body))
		var read struct{ Status string }
		if must(0, json.Unmarshal(verdict.Body, &read)); read.Status != "reserved" {
			os.Exit(1)
		}
	case <-returned:
		log.Fatal("no queue is bound to the exchange purchase")
	case <-ctx.Done():
		log.Fatal("no verdict; ask again with the same request id")
	}
}
