package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"sync"
)

func main() {
	runtime.GOMAXPROCS(4)
	var group sync.WaitGroup
	var lock sync.Mutex
	total := 0
	for i := 0; i < 50; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			kept := make([][]byte, 0)
			for j := 0; j < 200; j++ {
				kept = append(kept, make([]byte, 10000+i*j))
				if j%50 == 0 {
					runtime.GC()
				}
			}
			sum := 0
			for _, k := range kept {
				sum += len(k)
			}
			lock.Lock()
			total += sum
			lock.Unlock()
		}(i)
	}
	spin := make(chan bool)
	go func() {
		for i := 0; i < 1<<30; i++ {
		}
		spin <- true
	}()
	group.Wait()
	<-spin
	out, err := exec.Command("/bin/echo", "child").Output()
	fmt.Println(total, string(out), err)
}
