package etcd

import (
	"context"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// alarmOf is etcd's type of each of Baton's alarms, by their first word.
var alarmOf = map[string]pb.AlarmType{
	"NO_SPACE":     pb.AlarmType_NOSPACE,
	"DATA_DIFFERS": pb.AlarmType_CORRUPT,
}

var (
	errRaiseAlarm = ours(codes.FailedPrecondition,
		"Baton's alarms say how the volumes and the data are: nobody can raise one")
	errDisarm = ours(codes.FailedPrecondition,
		"the alarm ends by itself when its cause has: free space (delete keys, compact) or make the volume larger")
)

// Alarm reads what etcd keeps: alarms are not stored, they are how the pods are
// at this moment.
func (s *maintenanceService) Alarm(ctx context.Context, req *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	st, err := s.pod.Read(ctx, nil)
	if err == nil && req.GetAction() != pb.AlarmRequest_GET {
		err = s.pod.Admin(ctx)
	}
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	alarms, err := s.alarms(ctx)
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	response := &pb.AlarmResponse{Header: s.pod.header(st.Revision())}
	switch req.GetAction() {
	case pb.AlarmRequest_GET:
		for _, a := range alarms {
			if req.GetAlarm() == pb.AlarmType_NONE || req.GetAlarm() == a.GetAlarm() {
				response.Alarms = append(response.Alarms, a)
			}
		}
	case pb.AlarmRequest_ACTIVATE:
		if req.GetAlarm() != pb.AlarmType_NONE {
			return nil, errRaiseAlarm
		}
	case pb.AlarmRequest_DEACTIVATE:
		for _, a := range alarms {
			if a.GetMemberID() == req.GetMemberID() && a.GetAlarm() == req.GetAlarm() {
				return nil, errDisarm
			}
		}
	}
	return response, nil
}

// alarms asks every pod; one that does not answer raises none.
func (s *maintenanceService) alarms(ctx context.Context) ([]*pb.AlarmMember, error) {
	now, err := s.pod.Backend.Status(ctx, false)
	if err != nil {
		return nil, err
	}
	var alarms []*pb.AlarmMember
	for _, pod := range now.GetPods() {
		for _, alarm := range pod.GetAlarms() {
			word, _, _ := strings.Cut(alarm, ":")
			if kind, ok := alarmOf[word]; ok {
				alarms = append(alarms, &pb.AlarmMember{MemberID: number(pod.GetMemberId()), Alarm: kind})
			}
		}
	}
	return alarms, nil
}
